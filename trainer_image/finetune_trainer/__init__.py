"""The training container: prepare, train and export one FineTuneJob."""
