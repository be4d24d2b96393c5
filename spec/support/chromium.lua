-- A real browser: Chromium without a window, driven by its DevTools protocol over a WebSocket
-- (https://chromedevtools.github.io/devtools-protocol/). Each tab has a profile of its own.
--
-- The program is chromium-headless-shell or chromium. It exits when this process does, and leaves nothing behind.

local cjson = require "cjson"
local files = require "support.files"
local shell = require "support.shell"
local testkit = require "testkit"
local websocket = require "http.websocket"

local chromium = {}
local browser_methods = {}
local browser_meta = { __index = browser_methods }
local tab_methods = {}
local tab_meta = { __index = tab_methods }

local SECONDS = 120

local function run_shell(command)
  local output = shell.run(command)
  return (output:gsub("\n$", ""))
end

--- Returns the path of the program, or nil if none is installed.
function chromium.find()
  for _, path in ipairs { "/usr/lib/chromium/chromium-headless-shell", "/usr/lib/chromium/chromium" } do
    local file = io.open(path)
    if file then
      file:close()
      return path
    end
  end
end

-- The address that the browser writes into its profile once it listens.
local function await_address(self)
  local deadline = testkit.monotonic() + SECONDS
  repeat
    if testkit.waitpid(self.pid, 0.02) ~= "running" then
      error("the browser exited: " .. files.read(self.dir .. "/log"), 0)
    end
    local file = io.open(self.dir .. "/DevToolsActivePort")
    local port, path = (file and file:read "*a" or ""):match "^(%d+)\n(%S+)"
    if file then file:close() end
    if path then return ("ws://127.0.0.1:%s%s"):format(port, path) end
  until testkit.monotonic() > deadline
  error("the browser does not listen: " .. files.read(self.dir .. "/log"), 0)
end

--- Starts a browser.
function chromium.start()
  local self = setmetatable({ dir = run_shell "mktemp -d", sent = 0, tabs = {} }, browser_meta)
  self.pid = assert(testkit.spawn { assert(chromium.find(), "no Chromium is installed"), "--headless", "--no-sandbox",
    "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking", "--disable-component-update",
    "--no-first-run", "--hide-scrollbars", "--force-color-profile=srgb", "--remote-debugging-port=0",
    "--user-data-dir=" .. self.dir, "about:blank", stdin = "/dev/null", stdout = self.dir .. "/log",
    stderr = self.dir .. "/log", death_signal = "KILL", env = { HOME = self.dir } })
  local ok, problem = pcall(function()
    self.socket = websocket.new_from_uri(await_address(self))
    assert(self.socket:connect(SECONDS))
  end)
  if ok then return self end
  self:stop()
  error(problem, 2)
end

--- Stops it.
function browser_methods:stop()
  if not self.pid then return end
  -- its child processes exit when it does
  testkit.kill(self.pid, "KILL")
  testkit.waitpid(self.pid)
  self.pid = nil
  os.execute("rm -rf " .. self.dir)
end

-- Reads a message. An event is added to its tab; an answer is returned.
local function receive(self)
  local data, problem = self.socket:receive(SECONDS)
  if not data then error("the browser does not answer: " .. tostring(problem), 0) end
  local message = cjson.decode(data)
  if message.id then return message end
  local tab = self.tabs[message.sessionId]
  if tab then table.insert(tab.events, message) end
end

-- Calls a method of the protocol and returns its result.
local function call(self, method, parameters, session)
  self.sent = self.sent + 1
  local id = self.sent
  assert(self.socket:send(cjson.encode { id = id, method = method, sessionId = session,
    params = next(parameters or {}) and parameters or nil }, "text", SECONDS))
  local answer
  repeat answer = receive(self) until answer and answer.id == id
  if answer.error then error(method .. ": " .. answer.error.message, 0) end
  return answer.result
end

--- Opens an empty tab without cookies, cache or storage of others.
function browser_methods:open()
  local context = call(self, "Target.createBrowserContext").browserContextId
  local target = call(self, "Target.createTarget", { url = "about:blank", browserContextId = context }).targetId
  local session = call(self, "Target.attachToTarget", { targetId = target, flatten = true }).sessionId
  local tab = setmetatable({ browser = self, session = session, events = {} }, tab_meta)
  self.tabs[session] = tab
  for _, domain in ipairs { "Page", "Runtime", "Log", "Network" } do tab:call(domain .. ".enable") end
  return tab
end

--- Calls a method of the protocol.
function tab_methods:call(method, parameters)
  return call(self.browser, method, parameters, self.session)
end

--- Waits for an event that has not been taken yet, takes it, and returns its parameters.
function tab_methods:await(method)
  while true do
    for i, event in ipairs(self.events) do
      if event.method == method then
        table.remove(self.events, i)
        return event.params
      end
    end
    assert(not receive(self.browser), "an answer to nothing")
  end
end

--- Goes to an address and waits until the page has loaded.
function tab_methods:go(url)
  self.events = {}
  local result = self:call("Page.navigate", { url = url })
  if result.errorText then error(url .. ": " .. result.errorText, 2) end
  self:await "Page.loadEventFired"
end

--- Evaluates an expression of JavaScript, or waits for the promise that it is. Returns its plain value.
function tab_methods:evaluate(expression)
  local answer = self:call("Runtime.evaluate", { expression = expression, awaitPromise = true, returnByValue = true })
  if answer.exceptionDetails then
    error(answer.exceptionDetails.exception.description or answer.exceptionDetails.text, 2)
  end
  return answer.result.value
end

--- Presses and releases a key: Tab, Enter or Space.
function tab_methods:press(key)
  local codes = { Tab = 9, Enter = 13, Space = 32 }
  local texts = { Enter = "\r", Space = " " }
  for _, kind in ipairs { "keyDown", "keyUp" } do
    self:call("Input.dispatchKeyEvent", { type = kind, key = key == "Space" and " " or key, code = key,
      windowsVirtualKeyCode = codes[key], text = kind == "keyDown" and texts[key] or nil })
  end
end

--- Sets the width of the window, and the colour scheme: "light" or "dark".
function tab_methods:emulate(width, scheme)
  self:call("Emulation.setDeviceMetricsOverride", { width = width, height = 900, deviceScaleFactor = 1,
    mobile = width < 600 })
  self:call("Emulation.setEmulatedMedia", { features = { { name = "prefers-color-scheme", value = scheme } } })
end

--- Disables scripts from the next page on; is_off = false enables them again.
function tab_methods:disable_scripts(is_off)
  self:call("Emulation.setScriptExecutionDisabled", { value = is_off ~= false })
end

--- Returns what a developer would see in the console since the page was opened: messages, errors of scripts, and what
-- the browser itself complained of.
function tab_methods:list_complaints()
  local complaints = {}
  for _, event in ipairs(self.events) do
    local details = event.params
    if event.method == "Log.entryAdded" then complaints[#complaints + 1] = details.entry.text end
    if event.method == "Runtime.exceptionThrown" then
      complaints[#complaints + 1] = details.exceptionDetails.text
    end
    if event.method == "Runtime.consoleAPICalled" then complaints[#complaints + 1] = "console." .. details.type end
  end
  return complaints
end

--- Writes a picture of the whole page to a file.
function tab_methods:take_picture(path)
  local size = self:call("Page.getLayoutMetrics").cssContentSize
  local picture = self:call("Page.captureScreenshot", { captureBeyondViewport = true,
    clip = { x = 0, y = 0, width = size.width, height = size.height, scale = 1 } })
  files.write(path, require "mime".unb64(picture.data))
end

return chromium
