// Calls docker-credential-icptoken as docker's own library for credential helpers does:
//
//	helper_client get|erase SERVER
//	helper_client store SERVER USER <SECRET
//	helper_client list
//
// It prints what the library returns as JSON. The exit status is 3 where the library takes an answer for "credentials
// not found", and 1 for any other error, which is printed.
package main

import (
	"encoding/json"
	"fmt"
	"io/ioutil"
	"os"

	"github.com/docker/docker-credential-helpers/client"
	"github.com/docker/docker-credential-helpers/credentials"
)

func call(arguments []string) (interface{}, error) {
	program := client.NewShellProgramFunc("docker-credential-icptoken")
	switch arguments[0] {
	case "get":
		return client.Get(program, arguments[1])
	case "erase":
		return nil, client.Erase(program, arguments[1])
	case "list":
		return client.List(program)
	}
	secret, err := ioutil.ReadAll(os.Stdin)
	if err != nil {
		return nil, err
	}
	return nil, client.Store(program, &credentials.Credentials{ServerURL: arguments[1], Username: arguments[2],
		Secret: string(secret)})
}

func main() {
	result, err := call(os.Args[1:])
	if credentials.IsErrCredentialsNotFound(err) {
		os.Exit(3)
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	json.NewEncoder(os.Stdout).Encode(result)
}
