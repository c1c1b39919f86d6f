"""A folder of recordings to a corpus: long ones cut, texts beside them or recognised."""
