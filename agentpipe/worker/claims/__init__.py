"""A worker's claims: taking them, holding them under its lease, settling or releasing them."""
