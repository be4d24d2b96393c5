-- The version of the programs. It is that of the module, which is not loaded for this, because it would load libcurl.
return "1.0.0"
