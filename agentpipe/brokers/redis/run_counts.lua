-- Shared by all scripts: runs. RUNS has the name of each run with a record. The run's hash has the
-- record and the counts: 'tasks', 'done CONFIG OUTCOME', 'rewarded', 'rewards' and 'usd'. 'broken'
-- is set if a count was not a number and had to start again.

local run_keys, run_counts = {}, {}

-- The key of the run that a task id names, if that run has a record.
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

-- An invalid count, written by another program, must not stop a script halfway.
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
