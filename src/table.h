/* table.h - reads and fills Lua tables without calling metamethods of the caller. */
#ifndef ICPTOKEN_TABLE_H
#define ICPTOKEN_TABLE_H

#include <lua.h>
#include <stddef.h>

#pragma GCC visibility push(hidden)

/* Pushes a field of the table at index, or nil, and returns its type. */
int table_push_field(lua_State *L, int index, const char *name);

/* Returns the number of entries of the table at index, whatever their keys. */
size_t table_count(lua_State *L, int index);

/* Sets a field of the table at index to a number: a Lua integer if it is whole and exact. */
void table_set_number(lua_State *L, int index, const char *name, double value);

/* Removes a field of the table at index, if it has it. */
void table_remove(lua_State *L, int index, const char *name);

#pragma GCC visibility pop

#endif
