-- The plan: orders for answers, each for the next request (or connection) that it fits, first in, first out. An order
-- is checked when it is added, so that a misspelt one fails at once.

local cjson = require "cjson"
local text = require "text"

local function one_of(...)
  local allowed = {}
  for _, value in ipairs { ... } do
    allowed[value] = true
  end
  return function(value)
    return allowed[value]
  end
end

local function of_type(...)
  local allowed = one_of(...)
  return function(value)
    return allowed(type(value))
  end
end

local function is_count(value)
  return type(value) == "number" and value >= 0 and value % 1 == 0
end

local function anything()
  return true
end

local ORDER_FIELDS = {
  listener = of_type "string", path = of_type "string",
  times = function(value) return value == "forever" or is_count(value) and value > 0 end,
  at = one_of "connect",
  expires_in = anything, issued_at = anything, token = anything, claims = of_type "table",
  omit = of_type "table", extra = of_type "table", date = of_type("string", "boolean"),
  status = is_count, headers = of_type "table", body = of_type "string",
  framing = one_of("length", "chunked", "close"),
  raw = of_type "string", raw64 = of_type "string", cut = is_count,
  ["end"] = one_of("close", "abort", "reset", "hold"),
  together = is_count, delay = of_type "table",
  endless = one_of("body", "headers", "interim", "trailers"), bytes = is_count,
  redirect = of_type "string", keep_alive = of_type "boolean", close_idle = of_type "boolean",
}

local DELAY_FIELDS = {}
for _, name in ipairs { "before", "head", "body", "drip", "after" } do
  DELAY_FIELDS[name] = of_type "number"
end

local function check_fields(order, fields, what)
  for name, value in pairs(order) do
    local accepts = fields[name]
    if not accepts then
      error(("unknown %s field %q"):format(what, tostring(name)), 0)
    elseif not accepts(value) then
      error(("wrong value in %s field %q: %s"):format(what, name, cjson.encode(value)), 0)
    end
  end
end

-- Replaces short forms by the long ones, so that the rest of the stub needs to know only these.
local function check_order(order)
  check_fields(order, ORDER_FIELDS, "order")
  check_fields(order.delay or {}, DELAY_FIELDS, "delay")
  if order.at and not order["end"] then
    error('an order at "connect" needs an "end"', 0)
  end
  if order.raw64 then
    order.raw = text.decode_base64(order.raw64)
  end
  if order.close_idle then
    order["end"] = "close"
  end
  if (order.raw or order.cut) and not order["end"] then
    order["end"] = "close"
  end
  order.delay = order.delay or {}
  return order
end

local plan_methods = {}
local plan_meta = { __index = plan_methods }

function plan_methods:clear()
  self.orders = {}
end

function plan_methods:append(orders)
  for i, order in ipairs(orders) do
    orders[i] = check_order(order)
  end
  for _, order in ipairs(orders) do
    table.insert(self.orders, order)
  end
end

-- An order without a listener does not apply to the proxy, as a CONNECT would use up an order for its target.
local function order_fits(order, at, listener, path)
  if order.at ~= at or order.path and order.path ~= path then
    return false
  end
  if order.listener then
    return order.listener == listener
  end
  return listener ~= "proxy"
end

local function take_order(self, at, listener, path)
  for i, order in ipairs(self.orders) do
    if order_fits(order, at, listener, path) then
      if order.times ~= "forever" then
        order.times = (order.times or 1) - 1
        if order.times == 0 then
          table.remove(self.orders, i)
        end
      end
      return order
    end
  end
end

--- Returns the order for this request; an empty one if there is none.
function plan_methods:take_for_request(request)
  return take_order(self, nil, request.listener, request.path) or { delay = {} }
end

--- Returns the order for this new connection, or nil.
function plan_methods:take_for_connection(listener)
  return take_order(self, "connect", listener, nil)
end

return {
  new = function() return setmetatable({ orders = {} }, plan_meta) end,
  check_order = check_order,
}
