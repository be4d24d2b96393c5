-- The hint of a message about an unknown name: which name was probably meant.

local find_nearest = require "icptoken.nearest"

local MAX_NAME = 64

--- "; did you mean 'x'?" with the name of a list that is nearest to this one, or "" if none is near.
return function(name, names)
  local nearest = #name <= MAX_NAME and find_nearest(name, names)
  return nearest and ("; did you mean '%s'?"):format(nearest) or ""
end
