#!lua flags=no-writes
-- ARGV: number to begin after, bytes, collection ('' for all), '1' where only the ids that follow
-- are meant. Returns the number to go on after ('' at the end), then eight values for each letter:
-- id, queue, collection, payload, result, outcome, reason, died_at.

local max_bytes, collection = tonumber(ARGV[2]), ARGV[3]
local reply, bytes = {''}, 0

local function candidates()
  if ARGV[4] == '0' then
    return call('ZRANGEBYSCORE', DEAD, '(' .. ARGV[1], '+inf', 'WITHSCORES', 'LIMIT', 0, PORTION)
  end
  local asked, found = {}, {}
  for index = 5, #ARGV do
    local score = call('ZSCORE', DEAD, ARGV[index])
    if score and tonumber(score) > tonumber(ARGV[1]) then
      asked[#asked + 1] = {ARGV[index], score}
    end
  end
  table.sort(asked, function(one, other) return tonumber(one[2]) < tonumber(other[2]) end)
  for _, entry in ipairs(asked) do
    found[#found + 1], found[#found + 2] = entry[1], entry[2]
  end
  return found
end

local entries = candidates()
for index = 1, #entries, 2 do
  local letter = call('HMGET', base .. ':dead:' .. entries[index], 'queue', 'collection', 'payload',
    'result', 'outcome', 'reason', 'died_at')
  reply[1] = entries[index + 1]
  if letter[1] and (collection == '' or letter[2] == collection) then
    reply[#reply + 1] = entries[index]
    for _, value in ipairs(letter) do
      reply[#reply + 1] = value
    end
    bytes = bytes + #letter[3] + #letter[4]
    if bytes >= max_bytes then
      break
    end
  end
end
return reply
