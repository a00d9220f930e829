"""What the terminal shows of a report: parts of it as aligned lines."""
