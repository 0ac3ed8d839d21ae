# fish completion of rislab; made by: rislab completion fish
complete -c rislab -n __fish_use_subcommand -f -l version -d 'versions of rislab and torch'
$cases
