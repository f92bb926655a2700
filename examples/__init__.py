"""Examples and experiments with xr_daisi."""
