-- Secrets on the command line: every user of the machine can read them there (ps), and the shell keeps them in its
-- history. They are refused before the arguments are used for anything else, and never repeated in a message.

local failure = require "icptoken.cli.failure"

local secrets = {}

local PASSWORD =
  "type the password when you are asked for it, or pipe it: icptoken login -u USER --password-stdin <FILE"
local ID_TOKEN = "put it into $ID_TOKEN, into a file (--id-token-file FILE), or pipe it to standard input (-)"

-- What people try, and what to do instead.
local OPTIONS = {
  ["--password"] = PASSWORD, ["--pass"] = PASSWORD, ["--passwd"] = PASSWORD, ["-p"] = PASSWORD,
  ["--id-token"] = ID_TOKEN, ["--token"] = ID_TOKEN, ["--access-token"] = ID_TOKEN, ["--secret"] = ID_TOKEN,
  ["--refresh-token"] = ID_TOKEN,
}

local function refuse(what, advice)
  failure.usage("secret_argument", "%s is visible to other users of this machine as an argument: %s", what, advice)
end

local function looks_like_jwt(text)
  return text:find "eyJ[%w_-]+%.[%w_-]+%." ~= nil or text:find "^[Bb]earer%s+%S" ~= nil
end

local function check_user(value)
  if value and value:find ":" then
    refuse("a password after the user name", "give -u the user name alone, and " .. PASSWORD
      .. ". (For a user name with a colon leave out -u, and type it when you are asked for it.)")
  end
end

--- Fails if a secret is among the arguments. What follows "--" belongs to another program.
function secrets.refuse_arguments(arguments)
  for i, argument in ipairs(arguments) do
    if argument == "--" then return end
    local name, value = argument:match "^(%-%-[%w-]+)=(.*)$"
    name = name or argument:match "^(%-p)." and not argument:find "^%-%-" and "-p" or argument
    local advice = OPTIONS[name]
    if advice then refuse(advice == PASSWORD and "a password" or "a token", advice) end
    if looks_like_jwt(argument) then refuse("a token", ID_TOKEN) end
    if name == "-u" or name == "--username" then check_user(value or arguments[i + 1]) end
    if argument:find "^%-u." then check_user(argument:sub(3)) end
  end
end

return secrets
