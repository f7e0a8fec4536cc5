-- Shared by all scripts. Runs. RUNS has the name of each that has a record, its key that and the counts: 'tasks', of each
-- config and outcome 'done CONFIG OUTCOME', and 'rewarded', 'rewards' and 'usd'; 'broken' where one
-- of them was no number and began anew.

local run_keys, run_counts = {}, {}

-- The key of the run that an id names, if it has a record.
local function run_of(id)
  local name = id:find('/', 1, true) and id:match('^([^/]+)/')
  if not name then
    return nil
  end
  if run_keys[name] == nil then
    local key = base .. ':run:' .. name
    run_keys[name] = call('EXISTS', key) == 1 and key
  end
  return run_keys[name]
end

local function count_in_run(id, field, number)
  local key = run_of(id)
  if key and number ~= 0 then
    run_counts[key] = run_counts[key] or {}
    run_counts[key][field] = (run_counts[key][field] or 0) + number
  end
end

-- What another program wrote into a count must not stop a task half way.
local function save_runs()
  for key, counts in pairs(run_counts) do
    for field, number in pairs(counts) do
      local text = string.format('%.17g', number)
      local done = redis.pcall('HINCRBYFLOAT', key, field, text)
      if type(done) == 'table' and done.err then
        redis.pcall('HSET', key, field, text, 'broken', '1')
      end
    end
  end
  run_counts = {}
end
