"""What `check` and `preprocess` say of a corpus: examined, reported, on a page."""
