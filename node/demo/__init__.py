"""Four clinics run the whole mission on one machine."""
