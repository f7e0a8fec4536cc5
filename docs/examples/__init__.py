"""Programs of users that the documents show; tests/integration/test_examples.py runs each."""
