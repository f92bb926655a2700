"""Test systems as labelled Datasets: surface quasi-geostrophic turbulence."""
