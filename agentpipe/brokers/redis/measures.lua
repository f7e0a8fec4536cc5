-- Shared by all scripts: measures, monotonic counters by collection, or by queue outside any
-- collection, packed as doubles. agentpipe/brokers/measures.py defines them; its positions start at
-- 0.

local WIDTH = 44 -- Numbers per collection.
local measured = {}

local function add_at(numbers, place, number)
  numbers[place + 1] = (numbers[place + 1] or 0) + number
end

-- Add `more` (a position, its number, the next position, ...) to the measures of a queue's
-- collection. Returns all that this script adds to them so far.
local function measure(queue, collection, more)
  local owner = collection ~= '' and collection or queue
  local numbers = measured[owner] or {}
  for index = 1, #more, 2 do
    add_at(numbers, more[index], more[index + 1])
  end
  measured[owner] = numbers
  return numbers
end

local function save_measures()
  for owner, more in pairs(measured) do
    local packed = call('HGET', MEASURES, owner) or ''
    local numbers = {struct.unpack('<' .. ('d'):rep(#packed / 8), packed)}
    for place = math.floor(#packed / 8) + 1, WIDTH do -- `unpack` adds an offset at the end.
      numbers[place] = 0
    end
    for place, number in pairs(more) do
      numbers[place] = numbers[place] + number
    end
    call('HSET', MEASURES, owner, struct.pack('<' .. ('d'):rep(WIDTH), unpack(numbers, 1, WIDTH)))
  end
end
