-- Shared by the scripts that begin cooldowns.

-- Claim nothing from these queues for `delay` seconds. Does not shorten an earlier cooldown.
local function hold(names, delay)
  local held_until = now() + delay
  read_queues(names)
  for _, name in ipairs(names) do
    local queue = queues[name]
    if queue and queue[HELD_UNTIL] < held_until then
      queue[HELD_UNTIL], changed[name] = held_until, true
      later('ZADD', HOLDS, string.format('%.6f', held_until), name)
    end
  end
end
