-- Shared by the scripts that read the claims of all workers, part by part: a script stops the server
-- for as long as it runs.

local claims_read = (function()
  local AT_ONCE = 100 -- Claims; those of a worker with few are one page.

  -- The ids of a page of claims, and the claims ('NUMBER TIME').
  local function split(page)
    local ids, claims = {}, {}
    for index = 1, #page, 2 do
      ids[#ids + 1], claims[#claims + 1] = page[index], page[index + 1]
    end
    return ids, claims
  end

  -- Read the next claims. ARGV has, from `at`, a cursor in the first worker, and names of workers.
  -- `tell` gets a worker, ids of its tasks, and its claims of them, and returns whether to stop
  -- after them. Returns how many workers are done, and the cursor in the next one.
  return function(at, tell)
    local cursor, seen = ARGV[at], 0
    for index = at + 1, #ARGV do
      local key = base .. ':held:' .. ARGV[index]
      repeat
        local page = call('HSCAN', key, cursor, 'COUNT', AT_ONCE)
        cursor, seen = page[1], seen + #page[2] / 2
        local is_enough = tell(ARGV[index], split(page[2]))
        if is_enough or seen >= PORTION then
          return index - at - (cursor == '0' and 0 or 1), cursor
        end
      until cursor == '0'
    end
    return #ARGV - at, '0'
  end
end)()
