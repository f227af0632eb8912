function _mimicfs_completion
    set -lx _MIMICFS_COMPLETE fish_complete
    set -lx COMP_WORDS (commandline -cp)
    set -lx COMP_CWORD (commandline -t)
    set -l response (mimicfs)
    for completion in $response
        set -l metadata (string split -m 1 "," -- $completion)
        switch $metadata[1]
            case dir
                __fish_complete_directories $metadata[2]
            case file
                __fish_complete_path $metadata[2]
            case plain
                echo -- $metadata[2]
        end
    end
end
complete --no-files --command mimicfs --arguments "(_mimicfs_completion)"
