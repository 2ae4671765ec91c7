"""What trained models are used for: tracking objects through videos."""
