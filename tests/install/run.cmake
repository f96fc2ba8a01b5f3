# Builds and runs one consumer, from nothing: `find_package` against a fresh
# installation of what was built, moved elsewhere, with libtorch found by the
# package alone; `add_subdirectory` against the sources, as a shared library.
# The installed program must start, before and after the move.

function(run)
  execute_process(COMMAND ${ARGN} COMMAND_ERROR_IS_FATAL ANY)
endfunction()

# Without help from the environment.
function(run_program prefix)
  if(program)
    run(${CMAKE_COMMAND} -E env --unset=LD_LIBRARY_PATH ${prefix}/${program}
        --version)
  endif()
endfunction()

set(options "-DCMAKE_CXX_COMPILER=${compiler}")
if(consumer STREQUAL "find_package")
  file(REMOVE_RECURSE ${work}/prefix ${work}/moved)
  run(${CMAKE_COMMAND} --install ${peft_build} --prefix ${work}/prefix)
  run_program(${work}/prefix)
  file(RENAME ${work}/prefix ${work}/moved)
  run_program(${work}/moved)
  list(APPEND options -DCMAKE_PREFIX_PATH=${work}/moved)
else()
  list(APPEND options -DPEFT_SOURCE=${peft_source} -DTORCH_ROOT=${torch_root}
       -DBUILD_SHARED_LIBS=ON -DPEFT_USE_PCH=ON -DPEFT_USE_CCACHE=ON)
endif()

file(REMOVE_RECURSE ${work}/build)
run(${CMAKE_COMMAND} -S ${CMAKE_CURRENT_LIST_DIR}/${consumer} -B ${work}/build
    -G ${generator} ${options})
run(${CMAKE_COMMAND} --build ${work}/build)
run(${work}/build/consumer)
