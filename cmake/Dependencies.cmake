# What the library needs: libtorch (public), PCRE2 and nlohmann_json (private).

set(PEFT_PYTHON ${PROJECT_SOURCE_DIR}/.venv/bin/python
    CACHE FILEPATH "The Python that has torch, and peft for the tests")

# Sets `result` to the folder of a Python package, or to nothing.
function(peft_find_python_package result package)
  set(code "import importlib.util as u; print(u.find_spec('${package}')\
.submodule_search_locations[0], end='')")
  execute_process(COMMAND ${PEFT_PYTHON} -c "${code}"
                  OUTPUT_VARIABLE folder ERROR_QUIET)
  set(${result} "${folder}" PARENT_SCOPE)
endfunction()

peft_find_python_package(Libtorch_HINTS torch)
find_package(Libtorch 2.11 REQUIRED)
# Where the installed program finds it. INSTALL_RPATH_USE_LINK_PATH knows, but
# leaves out folders of the project, as .venv is.
get_filename_component(PEFT_LIBTORCH_FOLDER ${Libtorch_torch} DIRECTORY)
find_package(PCRE2 REQUIRED)
find_package(nlohmann_json 3.9 REQUIRED)
