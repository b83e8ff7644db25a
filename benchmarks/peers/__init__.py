"""The contenders, one file each. To add one: subclass `base.Peer`, assign `PEER`, name the file in a benchmark."""
