"""It stands here so that the tests find the package beside it where nobody has installed it."""
