# bash completion for mayfly-run: options and commands are asked of the program itself.
_mayfly_run()
{
	local word=${COMP_WORDS[COMP_CWORD]} command=run i
	local -a containers
	COMPREPLY=()
	for ((i = 1; i < COMP_CWORD; i++)); do
		[[ ${COMP_WORDS[i]} == -* ]] || { command=${COMP_WORDS[i]}; break; }
	done
	case $word in
	--net=*) mapfile -t COMPREPLY < <(compgen -W 'none user tap:' -- "${word#*=}") ;;
	--pull=*) mapfile -t COMPREPLY < <(compgen -W 'missing always never' -- "${word#*=}") ;;
	--*=*) mapfile -t COMPREPLY < <(compgen -f -- "${word#*=}") ;;
	-*) mapfile -t COMPREPLY < <(compgen -W "$(mayfly-run __words "$command" 2>/dev/null || mayfly-run __words run)" -- "$word") ;;
	*)
		if ((COMP_CWORD == 1)); then
			mapfile -t COMPREPLY < <(compgen -W "$(mayfly-run __words)" -- "$word")
		elif [[ $command != run ]]; then
			mapfile -t containers < <(mayfly-run ps -a 2>/dev/null | awk 'NR > 1 { print $1 }')
			mapfile -t -O "${#containers[@]}" containers < <(mayfly-run ps -a --json 2>/dev/null | grep -o '"name":"[^"]*"' | cut -d '"' -f 4)
			mapfile -t COMPREPLY < <(compgen -W "${containers[*]}" -- "$word")
		fi
		# Images, files to copy.
		[[ ${#COMPREPLY[@]} -gt 0 ]] || mapfile -t COMPREPLY < <(compgen -f -- "$word")
		;;
	esac
	[[ ${#COMPREPLY[@]} -ne 1 || ${COMPREPLY[0]} != *[=:] ]] || compopt -o nospace 2>/dev/null || true
}
complete -F _mayfly_run mayfly-run
