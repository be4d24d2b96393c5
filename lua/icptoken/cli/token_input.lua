-- A token that the user passes in a file or on standard input, alone or as part of an answer or a header.

local credential = require "icptoken.cli.credential"
local failure = require "icptoken.cli.failure"
local files = require "icptoken.cli.files"
local json = require "icptoken.cli.json"
local jwt = require "icptoken.cli.jwt"

local token_input = {}

local MAX_BYTES = 64 * 1024

local function read_text(path)
  if not path or path == "-" then return credential.read_input "the token" end
  local text, message = files.read(path, MAX_BYTES)
  if not text then failure.fail("file", "cannot read the token: %s", message) end
  return text
end

--- The token in a file, or on standard input for nil and "-". It may be part of an answer of the endpoint, or of a
-- header.
function token_input.read(path)
  local text = read_text(path)
  if not text:find "%S" then
    failure.fail("no_credential", "there is no token %s", path and path ~= "-" and "in " .. path
      or "on standard input; does the command before | fail?")
  end
  local answer = text:find "^%s*{" and json.decode_object(text)
  local token = answer and (answer.token or answer.access_token or answer.id_token) or text
  if type(token) ~= "string" then token = text end
  return jwt.strip((token:gsub("^%s*[Aa]uthorization:%s*", "")))
end

return token_input
