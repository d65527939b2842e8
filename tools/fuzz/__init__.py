"""Bad input on purpose: what every public function, every reader and the command line do with it."""
