"""One file per op: its public function, and the custom ops behind it; what backends there are, and which is chosen."""
