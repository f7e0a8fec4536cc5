-- Shared by all scripts. Measures: numbers that only rise, by collection or by queue outside any, packed as doubles. Which
-- number counts what, agentpipe/brokers/measures.py says; it names them by their places from 0.

local measured = {}

local function add_at(numbers, place, number)
  numbers[place + 1] = (numbers[place + 1] or 0) + number
end

-- Add to the numbers of a queue's collection, and return what is added to them here; `more` has a
-- place and a number for each.
local function measure(queue, collection, more)
  local owner = collection ~= '' and collection or queue
  local numbers = measured[owner] or {}
  for place, number in more:gmatch('(%d+)=(%S+)') do
    add_at(numbers, tonumber(place), tonumber(number))
  end
  measured[owner] = numbers
  return numbers
end

local function save_measures(width)
  for owner, more in pairs(measured) do
    local packed = call('HGET', MEASURES, owner) or ''
    local numbers = {struct.unpack('<' .. ('d'):rep(#packed / 8), packed)}
    for place = math.floor(#packed / 8) + 1, width do -- Behind the last number is a position in the string.
      numbers[place] = 0
    end
    for place, number in pairs(more) do
      numbers[place] = numbers[place] + number
    end
    call('HSET', MEASURES, owner, struct.pack('<' .. ('d'):rep(width), unpack(numbers, 1, width)))
  end
end
