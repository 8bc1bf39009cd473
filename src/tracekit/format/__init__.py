"""Files: the only place that imports h5py. `schema` says what is in them, `file` reads and writes them."""
