"""The contenders, one file each. A new one: subclass `base.Peer`, assign `PEER`, name the file in the catalogue."""
