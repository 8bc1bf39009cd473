"""Other people's recordings and datasets, to our records and back."""
