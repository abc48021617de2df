"""Weight and mean files of Caffe."""
