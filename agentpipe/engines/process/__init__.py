"""Child processes of a worker: started through a reaper; they never outlive the worker."""
