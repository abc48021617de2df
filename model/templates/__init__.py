"""Pages, filled by Jinja2."""
