"""Photos without a label: sorted into class folders, or suggested for labelling."""
