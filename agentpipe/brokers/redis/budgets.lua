-- Shared by the scripts that handle budgets. BUDGETS has them by 'collection NAME' or 'run NAME'
-- (the holder), packed: caps in USD and tokens (-1 for none), spent USD and tokens, and the caps
-- that a file declared last. SPENT has the holders that have spent their budget: none of their
-- tasks is claimed.

local CAP_USD, CAP_TOKENS, USD, TOKENS, DECLARED = 1, 2, 3, 4, 5
local EXACT_USD = 1e-9

local budgets = on_demand(function()
  local budgets = {}

  -- Nil for an invalid budget, which another program can have written; it must not hide the others.
  local function unpack_budget(packed)
    local is_packed, budget = pcall(cmsgpack.unpack, packed)
    if not is_packed or type(budget) ~= 'table' then
      return nil
    end
    for index = CAP_USD, TOKENS do
      if type(budget[index]) ~= 'number' then
        return nil
      end
    end
    return budget
  end

  function budgets.read(holder)
    local packed = call('HGET', BUDGETS, holder)
    return packed and unpack_budget(packed)
  end

  local function is_over(budget)
    return (budget[CAP_USD] >= 0 and budget[USD] + EXACT_USD >= budget[CAP_USD])
      or (budget[CAP_TOKENS] >= 0 and budget[TOKENS] >= budget[CAP_TOKENS])
  end

  -- Returns whether it became spent, or stopped being spent.
  function budgets.save(holder, budget)
    call('HSET', BUDGETS, holder, cmsgpack.pack(budget))
    return call(is_over(budget) and 'SADD' or 'SREM', SPENT, holder) == 1
  end

  function budgets.limit(holder, cap_usd, cap_tokens, declared)
    local budget = budgets.read(holder) or {-1, -1, 0, 0, '-1 -1'}
    budget[CAP_USD], budget[CAP_TOKENS] = tonumber(cap_usd), tonumber(cap_tokens)
    budget[DECLARED] = declared or budget[DECLARED]
    return budgets.save(holder, budget)
  end

  -- As strings: Lua encodes JSON numbers with too few digits.
  function budgets.tell(holder, budget)
    local kind, name = holder:match('^(%S+) (.*)$')
    local values = {}
    for index = CAP_USD, TOKENS do
      values[index] = string.format('%.17g', budget[index])
    end
    return {kind, name, unpack(values)}
  end

  -- Six values per budget: kind, name, caps in USD and tokens (-1 for none), spent USD and tokens.
  -- For an unreadable budget the last four are empty.
  function budgets.tell_all()
    local reply, found = {}, call('HGETALL', BUDGETS)
    for index = 1, #found, 2 do
      local budget = unpack_budget(found[index + 1])
      local values = budget and budgets.tell(found[index], budget) or {'', found[index], '', '', '', ''}
      for _, value in ipairs(values) do
        reply[#reply + 1] = value
      end
    end
    return reply
  end

  -- What each holder spent in this script.
  local costs = {}

  function budgets.charge(holder, usd, tokens)
    local cost = costs[holder] or {0, 0}
    costs[holder] = {cost[1] + usd, cost[2] + tokens}
  end

  function budgets.save_costs()
    local stops = false
    for holder, cost in pairs(costs) do
      local budget = budgets.read(holder)
      if budget then
        budget[USD], budget[TOKENS] = budget[USD] + cost[1], budget[TOKENS] + cost[2]
        stops = budgets.save(holder, budget) or stops
      end
    end
    if stops then
      pauses.begin('flags')
    end
  end

  return budgets
end)
