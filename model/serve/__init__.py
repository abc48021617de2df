"""A page and an endpoint that classify photos."""
