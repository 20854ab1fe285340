"""Training data: the Parquet formats, read alike by the laptop's checks and by the trainers."""
