"""Child processes of a worker: started through a reaper, and never outliving the worker."""
