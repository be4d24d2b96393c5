-- Content negotiation by the header Accept (RFC 9110 section 12.5.1).

local accept = {}

-- A longer Accept counts as none.
local MAX_BYTES = 4096

--- Returns the weight, 0 to 1, that an Accept value gives to a media type; 0 if there is none. rate: a function that
-- takes the name and the parameters of a media range, both in lower case, and returns how closely it fits, 0 for not at
-- all. The one that fits most closely counts.
function accept.find_weight(header, rate)
  if not header or #header > MAX_BYTES then return 0 end
  local weight, best = 0, 0
  for range in header:lower():gmatch "[^,]+" do
    local name, parameters = range:match "^%s*([^;%s]+)%s*(.*)$"
    local rank = name and rate(name, parameters) or 0
    local quality = tonumber((parameters or ""):match ";%s*q%s*=%s*([%d.]+)") or 1
    if rank > best or rank > 0 and rank == best and quality > weight then weight, best = quality, rank end
  end
  return weight
end

--- Returns which of several media types (in lower case) a client prefers, the first of those that it weighs equally.
function accept.choose(header, media_types)
  local chosen, chosen_weight = nil, -1
  for _, media_type in ipairs(media_types) do
    local all_subtypes = media_type:match "^[^/]*" .. "/*"
    local weight = accept.find_weight(header, function(name)
      return name == media_type and 3 or name == all_subtypes and 2 or name == "*/*" and 1 or 0
    end)
    if weight > chosen_weight then chosen, chosen_weight = media_type, weight end
  end
  return chosen
end

return accept
