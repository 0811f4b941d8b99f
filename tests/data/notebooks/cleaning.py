"""What the pipeline imports from its folder."""


def strip(text):
    return [line.strip() for line in text.splitlines()]


def keep(line):
    return bool(line) and not line.startswith("#")
