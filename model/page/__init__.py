"""The page that model.serve shows: filled by Jinja2, with its style and script."""
