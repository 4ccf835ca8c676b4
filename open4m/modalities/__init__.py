"""What each kind of data is: values, files, crops, checks, grammar, pictures, scores. One family per file."""
