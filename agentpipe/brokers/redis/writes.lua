-- Shared by all scripts: unique numbers, and batched reads and writes.

-- Reserve `count` unique numbers from the store's only counter, and return the first.
local function numbers(count)
  return call('HINCRBY', STORE, 'next', count) - count + 1
end

-- Writes are collected by `later`, and sent by `flush` with many values per command.

local writes = {}

local function flush_one(command, key, values)
  for first = 1, #values, CHUNK do
    call(command, key, unpack(values, first, math.min(first + CHUNK - 1, #values)))
  end
end

local function flush()
  for command, keys in pairs(writes) do
    for key, values in pairs(keys) do
      flush_one(command, key, values)
    end
  end
  writes = {}
end

local function later(command, key, first, second)
  local keys = writes[command]
  if not keys then
    keys = {}
    writes[command] = keys
  end
  local values = keys[key]
  if not values then
    values = {}
    keys[key] = values
  end
  values[#values + 1] = first
  if second then
    values[#values + 1] = second
  end
end

local function read_many(command, key, names)
  local found = {}
  for first = 1, #names, CHUNK do
    local last = math.min(first + CHUNK - 1, #names)
    for index, value in ipairs(call(command, key, unpack(names, first, last))) do
      found[first + index - 1] = value
    end
  end
  return found
end
