(* mayfly_proofs.ml: what the proofs add to Frama-C: a machine with 128-bit integers, and the coverage of each statement.

   Frama-C has no __int128, and its kernel takes the sizes of the integer types from this record. gnu.h replaces __int128
   by long long, so that 128-bit arithmetic is analysed exactly. No other long long may occur where this is used. *)
let () =
  File.new_machdep "gcc_x86_64_int128"
    { Machdeps.gcc_x86_64 with Cil_types.sizeof_longlong = 16; alignof_longlong = 16; alignof_aligned = 16 }

(* One line per function, and one per statement that EVA found unreachable. Blocks are not counted: one entered by a jump
   into its middle (case labels, the last leg of an "or") counts as unreachable in Frama-C's own metrics. *)
let () =
  let counts (stmt : Cil_types.stmt) =
    match stmt.skind with Block _ | UnspecifiedSequence _ -> false | _ -> true
  in
  let report (fundec : Cil_types.fundec) =
    let stmts = List.filter counts fundec.sallstmts in
    let dead = List.filter (fun stmt -> not (Db.Value.is_reachable_stmt stmt)) stmts in
    Printf.printf "coverage: %s %d %d\n" fundec.svar.vname (List.length stmts - List.length dead) (List.length stmts);
    let show stmt =
      let position = fst (Cil_datatype.Stmt.loc stmt) in
      Printf.printf "unreached: %s %d\n" fundec.svar.vname position.pos_lnum
    in
    List.iter show dead
  in
  Db.Main.extend (fun () -> if Db.Value.is_computed () then Globals.Functions.iter_on_fundecs report)
