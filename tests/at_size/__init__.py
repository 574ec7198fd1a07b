"""What shows at a real model's size alone; run by hand (`python -m tests.at_size FOLDER`), never by pytest."""
