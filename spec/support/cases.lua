-- What the specs of fetching share: options for a stub, JWTs, and checks that apply to every failure.

local assert = require "luassert"
local mime = require "mime"

local cases = {}

--- Options for the stub's main listener with its ID token. changes: more options; false leaves one out.
function cases.options(stub, changes)
  local all = { host = "localhost", port = stub.port, cacert = stub.ca, id_token = stub.id_token, timeout = 100,
    connect_timeout = 100, retries = 0 }
  for name, value in pairs(changes or {}) do all[name] = value end
  for name, value in pairs(all) do all[name] = value or nil end
  return all
end

local function encode_base64url(bytes)
  return ((mime.b64(bytes)):gsub("[+/=]", { ["+"] = "-", ["/"] = "_", ["="] = "" }))
end

--- A JWT with these claims, which are JSON. Its signature is not valid.
function cases.make_jwt(claims)
  return table.concat({ encode_base64url '{"typ":"JWT","alg":"RS256"}', encode_base64url(claims),
    encode_base64url "signature" }, ".")
end

local function visit_strings(value, visit)
  if type(value) == "string" then
    visit(value)
  elseif type(value) == "table" then
    for key, member in pairs(value) do
      visit_strings(key, visit)
      visit_strings(member, visit)
    end
  end
end

-- Neither the credentials that the specs use nor anything that begins like a JWT.
local function assert_no_secret(text, secrets)
  assert.not_matches("eyJ", text, 1, true)
  for _, secret in ipairs(secrets) do assert.not_matches(secret, text, 1, true) end
end

--- Takes the results of a call that must have failed with `code`, and returns its message and details. The other
--- arguments are the results. secrets: strings that neither may contain.
function cases.check_failure(code, secrets, token, message, got, details)
  assert.is_nil(token)
  assert.is_string(message)
  assert.equal(code, got, message)
  assert.not_matches("%c", message)
  assert.is_table(details)
  assert.is_nil(getmetatable(details))
  assert.is_boolean(details.retryable)
  assert.is_number(details.attempts)
  assert_no_secret(message, secrets)
  visit_strings(details, function(text) assert_no_secret(text, secrets) end)
  return message, details
end

return cases
