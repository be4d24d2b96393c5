function __fish_icptoken_print_command
    set -l cmdline (commandline -poc)
    set -l cmd
    set -e cmdline[1]
    for arg in $cmdline
        switch $arg
            case token
                set cmd $cmd token
                break
            case login
                set cmd $cmd login
                break
            case logout
                set cmd $cmd logout
                break
            case whoami
                set cmd $cmd whoami
                break
            case decode
                set cmd $cmd decode
                break
            case verify
                set cmd $cmd verify
                break
            case check
                set cmd $cmd check
                break
            case configure
                set cmd $cmd configure
                break
            case docker-config
                set cmd $cmd docker-config
                break
            case exec
                set cmd $cmd exec
                break
            case credential-provider
                set cmd $cmd credential-provider
                break
        end
    end
    echo "$cmd"
end

function __fish_icptoken_using_command
    test (__fish_icptoken_print_command) = "$argv"
    and return 0
    or return 1
end

function __fish_icptoken_seen_command
    string match -q "$argv*" (__fish_icptoken_print_command)
    and return 0
    or return 1
end

complete -c icptoken -n '__fish_icptoken_using_command' -xa 'token'
complete -c icptoken -n '__fish_icptoken_using_command' -xa 'login'
complete -c icptoken -n '__fish_icptoken_using_command' -xa 'logout'
complete -c icptoken -n '__fish_icptoken_using_command' -xa 'whoami'
complete -c icptoken -n '__fish_icptoken_using_command' -xa 'decode'
complete -c icptoken -n '__fish_icptoken_using_command' -xa 'verify'
complete -c icptoken -n '__fish_icptoken_using_command' -xa 'check'
complete -c icptoken -n '__fish_icptoken_using_command' -xa 'configure'
complete -c icptoken -n '__fish_icptoken_using_command' -xa 'docker-config'
complete -c icptoken -n '__fish_icptoken_using_command' -xa 'exec'
complete -c icptoken -n '__fish_icptoken_using_command' -xa 'credential-provider'
complete -c icptoken -l cluster -r -d 'the cluster, as the configuration calls it'
complete -c icptoken -l host -r -d 'host name of the cluster\'s master'
complete -c icptoken -l port -r -d 'its port (8443)'
complete -c icptoken -l cacert -r -d 'the cluster\'s CA certificate'
complete -c icptoken -l insecure -d 'verify no certificate'
complete -c icptoken -l resolve -r -d 'connect to this address for the host'
complete -c icptoken -l timeout -r -d 'time limit of all requests (30)'
complete -c icptoken -l id-token-file -r -d 'take the ID token from this file'
complete -c icptoken -l json -d 'write errors, and reports, as JSON'
complete -c icptoken -s v -l verbose -d 'print on standard error what is done'
complete -c icptoken -s h -l help -d 'show help'
complete -c icptoken -l version -d 'show the version'

complete -c icptoken -n '__fish_icptoken_seen_command token' -l push -d 'the token may push, too'
complete -c icptoken -n '__fish_icptoken_seen_command token' -l delete -d 'the token may delete, too'
complete -c icptoken -n '__fish_icptoken_seen_command token' -s m -l mount -r -d 'the token may pull from this repository, too, to mount its layers'
complete -c icptoken -n '__fish_icptoken_seen_command token' -l scope -r -d 'a scope as registries write it'
complete -c icptoken -n '__fish_icptoken_seen_command token' -l catalog -d 'the token may list the repositories'
complete -c icptoken -n '__fish_icptoken_seen_command token' -l service -r -d 'the audience (token-service)'
complete -c icptoken -n '__fish_icptoken_seen_command token' -l no-service -d 'a token without an audience'
complete -c icptoken -n '__fish_icptoken_seen_command token' -l format -xa 'token json header docker' -d 'header is for curl -H @-, docker is a config.json (default: token)'
complete -c icptoken -n '__fish_icptoken_seen_command token' -s H -l header -d 'the same as --format header'
complete -c icptoken -n '__fish_icptoken_seen_command token' -s o -l output -r -d 'write to this file, which only you can read'

complete -c icptoken -n '__fish_icptoken_seen_command login' -s u -l username -r -d 'user name ($ICPTOKEN_USERNAME)'
complete -c icptoken -n '__fish_icptoken_seen_command login' -l password-stdin -d 'take the password from standard input'




complete -c icptoken -n '__fish_icptoken_seen_command verify' -l cert -r -d 'the certificates (PEM) that the registry\'s rootcertbundle names'
complete -c icptoken -n '__fish_icptoken_seen_command verify' -l service -r -d 'the registry\'s auth.token.service (default: token-service)'
complete -c icptoken -n '__fish_icptoken_seen_command verify' -l issuer -r -d 'the registry\'s auth.token.issuer (default: registry-token-issuer)'
complete -c icptoken -n '__fish_icptoken_seen_command verify' -l scope -r -d 'what the token is to allow, as registries write it'


complete -c icptoken -n '__fish_icptoken_seen_command configure' -l gateway-user -r -d 'the registry is behind icptoken\'s gateway, and this is the gateway\'s option token_user'
complete -c icptoken -n '__fish_icptoken_seen_command configure' -l for -xa 'docker podman all' -d 'whose files are written (default: all)'
complete -c icptoken -n '__fish_icptoken_seen_command configure' -l dry-run -d 'show what would change, and change nothing'
complete -c icptoken -n '__fish_icptoken_seen_command configure' -l remove -d 'take the registry out of the files'

complete -c icptoken -n '__fish_icptoken_seen_command docker-config' -l scope -r -d 'what the token allows, such as repository:default/app:pull,push'
complete -c icptoken -n '__fish_icptoken_seen_command docker-config' -l remove -d 'remove the token'


