"""One reader per weight format: file -> {name: array}."""
