-- Shared by the scripts that tell waiting and delayed tasks from running ones.

local function is_unclaimed(task, id)
  return call('ZSCORE', place_of(task), task.seq .. id) or call('ZSCORE', DELAYED, id)
end
