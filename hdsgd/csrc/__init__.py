"""Hand-written C sources of the runtime; compiled on first use together with a generated kernel."""
